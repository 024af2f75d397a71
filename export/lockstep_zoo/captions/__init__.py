"""The English captions of Multi30k, word by word."""
