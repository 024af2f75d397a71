"""The gRPC side: messages to plain data, admission, and answers back to messages."""
