"""Tests of whether attention says what mattered: occlusion, swaps, deletion and insertion."""
