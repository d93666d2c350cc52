"""The world of the pocket models: words, sentences, and espeak-ng's voices to say them."""
