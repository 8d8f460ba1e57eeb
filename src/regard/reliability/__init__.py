"""How far a caption can be trusted: confidence, calibration, out-of-distribution inputs."""
