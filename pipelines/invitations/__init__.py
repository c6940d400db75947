"""Invitations (iCalendar, RFC 5545) as data: lines, times and zones, events, links to conferences."""
