-- enable.sql - the tables become soft-deleted in one database, and get the column in the other.
\if :soft
	SELECT softaudit.enable('users', audit => :audit);
	SELECT softaudit.enable('orders', audit => false);
	SELECT softaudit.enable('items', audit => :audit, deleted_at => 'Gone at');
	SELECT softaudit.enable('tags', audit => false);
	SELECT softaudit.enable('notes', audit => :audit);
	SELECT softaudit.enable('lines', audit => false);
	SELECT softaudit.enable('events', audit => :audit);
	SELECT softaudit.enable('readings', audit => false);
	SELECT softaudit.enable('places', audit => false);
\else
	ALTER TABLE users ADD deleted_at timestamptz;
\endif
