"""Operators of object detection: pure functions of fixed shapes, for one image each."""
