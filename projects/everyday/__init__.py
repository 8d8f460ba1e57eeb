"""The recipe of the model `everyday`: captions of everyday pictures, with a pointer."""
