"""Workers as processes of this host: started, watched, restarted, ended."""
