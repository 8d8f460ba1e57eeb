"""Reliability of captions: confidence, calibration, out-of-distribution inputs."""
