"""The arena: chat pages, battles, votes and the leaderboard. It knows the mesh as any OpenAI client does, over HTTP."""
