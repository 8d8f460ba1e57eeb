"""Faithfulness of attention: occlusion, deletion and insertion, swaps, pointing."""
