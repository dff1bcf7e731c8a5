"""What the arena's methods are worth, on synthetic votes: sampling, the test of voters, ratings beside others."""
