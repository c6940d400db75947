"""What `mailquay parse` is made of: where messages lie, parsing them on all cores, drawing them, taking attachments out.

It needs no configuration, no Redis and no network, and it changes nothing of what it reads.
"""
