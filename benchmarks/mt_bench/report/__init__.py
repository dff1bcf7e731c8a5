"""The results as one HTML page that needs nothing else: no script, font or image from anywhere."""
