"""What a load curve is made of: the runs behind it, what they come to, and its words, figures and page."""
