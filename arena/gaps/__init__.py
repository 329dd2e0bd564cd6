"""How much better the winner of a vote is: by its two models, or by all votes on its images."""
