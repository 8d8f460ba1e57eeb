"""Scans: NIfTI and DICOM files as volumes in canonical orientation."""
