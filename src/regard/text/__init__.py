"""Text of captions: vocabularies, word classes, synonyms."""
