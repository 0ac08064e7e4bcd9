"""How a replica comes to be: in virtual time, as a child process of the head, or by joining from another host."""
