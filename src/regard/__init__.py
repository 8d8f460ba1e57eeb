"""regard writes captions for pictures and shows where it looked for every word."""
