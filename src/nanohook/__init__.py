"""Signed callbacks in, finished pictures out: the NanoBanana image API without polling."""
