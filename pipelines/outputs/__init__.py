"""The outputs that come with Mailquay, one a file; each is registered as an entry point and imported when it is used."""
