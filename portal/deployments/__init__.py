"""What is to be served: changes as transactions, their records, and what keeps them true."""
