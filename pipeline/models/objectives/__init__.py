"""Objectives of autoencoders: the cost functions that training minimises."""
