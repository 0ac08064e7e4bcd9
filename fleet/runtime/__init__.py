"""Time and bytes: the kernel of virtual time, the asyncio runtime, and the ZeroMQ node that joins processes."""
