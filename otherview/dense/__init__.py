"""Boxes and pixels: detection, instance and semantic segmentation on top of an encoder."""
