"""`mesh completion`: what makes bash, zsh and fish complete the commands and flags of the mesh."""
