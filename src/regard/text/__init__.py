"""Text of captions: vocabularies, classes of words, synonyms."""
