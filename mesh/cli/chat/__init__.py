"""`mesh chat`: conversations in the terminal, through pipes, and for programs."""
