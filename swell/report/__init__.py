"""What a run came to, for people: `swell report`, on a terminal or as one HTML file."""
