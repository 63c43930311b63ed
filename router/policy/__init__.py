"""Who may, who first, who serves: decisions about requests, pure but for limits shared through Redis."""
