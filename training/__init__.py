"""How the pocket models are made: data, training, evaluation. The product never imports this."""
