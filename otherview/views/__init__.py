"""What the learner sees: crops that tell what they took, colour, masks, and the pair of views."""
