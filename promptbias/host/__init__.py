"""promptbias inside somebody else's checkout: their script run with our trainers, or our files put beside theirs."""
