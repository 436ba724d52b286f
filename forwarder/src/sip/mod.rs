//! SIP as the slow path sees it: whole messages, read in full.
