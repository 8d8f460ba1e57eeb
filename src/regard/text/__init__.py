"""What captions are made of: kinds of words, and which of them tell about the same."""
