"""What another routing policy would have done with the decisions of a run, and what that would have come to."""
