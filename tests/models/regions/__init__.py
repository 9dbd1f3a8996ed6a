"""Tests of networks that find regions without labels."""
