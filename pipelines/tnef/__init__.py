"""What Outlook packs into winmail.dat (TNEF, MS-OXTNEF): attributes, properties, bodies, attachments, meetings."""
