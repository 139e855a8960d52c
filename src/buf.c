/*
 * buf.c
 *		The growing byte buffer that images and log rows are laid down in.
 *
 * Not StringInfo: a batch with two images of a quarter of a gigabyte each may
 * pass the limit of one, and no terminating byte is wanted.
 */
#include "postgres.h"

#include "softaudit.h"
#include "utils/memutils.h"

/* Make room for "more" bytes past the end; called through sau_buf_reserve(). */
void
sau_buf_grow(SauBuf *buf, Size more)
{
	Size		need;
	Size		cap = Max(buf->cap, 8192);

	if (more > MaxAllocHugeSize / 4 || buf->len > MaxAllocHugeSize / 4)
		elog(ERROR, "cannot grow a buffer of %zu bytes by %zu", buf->len, more);
	need = buf->len + more;

	while (cap < need)
		cap *= 2;
	if (buf->data == NULL)
		buf->data = MemoryContextAllocHuge(buf->cxt, cap);
	else
		buf->data = repalloc_huge(buf->data, cap);
	buf->cap = cap;
}
