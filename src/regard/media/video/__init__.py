"""Video clips: decoding, frame sampling and orientation."""
