"""HTTP/1.1 under trio for aiobotocore: sockets, the grammar of messages, connections kept open."""
