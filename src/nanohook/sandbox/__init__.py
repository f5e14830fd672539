"""
A NanoBanana look-alike over real HTTP: real pictures, real callbacks, faults on request.

It stands apart: it imports nothing of the service and shares no memory with it, so what works against it
works over the wire.
"""
