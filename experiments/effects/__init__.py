"""What the source of a policy says of it, tried out: each policy of the library against what it is to be better than.

A folder of small paired experiments, a module for each slot with its `EFFECTS`. `effect` says what one is and runs it;
the study `published_effects` runs them all. An effect that does not appear is a finding, not a mistake: it stands in
the table with what was measured.
"""
