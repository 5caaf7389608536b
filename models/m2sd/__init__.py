"""M2SD, of which only the rule that cuts clips is here."""
