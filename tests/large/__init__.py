"""Files of tens of gigabytes through a real mount; slow, run by ``make test-large`` only."""
