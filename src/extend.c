/*
 * extend.c
 *		Make a relation longer by several pages at once.
 *
 * Step of the path: append.c runs out of pages.  PostgreSQL extends a relation whose free
 * space map is not asked by one page at a time, and each costs as much as the rows on it.
 *
 * From 16 on the server does it.  15 has nothing for it: here the file is made
 * longer as 16 does it, by posix_fallocate(), so that no page is written twice and a
 * full disk is told at once.  Whoever extends the relation otherwise waits for the same
 * lock.  The pages are all zeros, as a crash in the middle of an extension leaves them too,
 * and whoever puts the first row on one makes it a page.
 *
 * The caller holds a lock that keeps VACUUM from cutting the file.
 */
#include "postgres.h"

#include <fcntl.h>

#include "common/relpath.h"
#include "softaudit.h"
#include "storage/bufmgr.h"
#include "storage/fd.h"
#include "storage/lmgr.h"

#ifdef SAU_HAVE_EXTEND_BY

/*
 * Extend "rel" by up to "pages" pages, at most SAU_EXTEND_MAX.  Returns how many it got, the first
 * of them in *first; raises what extending by one page would.
 */
int
sau_extend_by(Relation rel, int pages, BlockNumber *first)
{
	Buffer		buffers[SAU_EXTEND_MAX];
	uint32		got = 0;

	Assert(pages > 0 && pages <= SAU_EXTEND_MAX);
	*first = ExtendBufferedRelBy(BMR_REL(rel), MAIN_FORKNUM, NULL, 0, pages, buffers, &got);
	for (uint32 i = 0; i < got; i++)
		ReleaseBuffer(buffers[i]);
	return got;
}

#elif defined(HAVE_POSIX_FALLOCATE)

/* Have the file that ends with page first - 1 hold "pages" more; false if it cannot be had. */
static bool
allocate(Relation rel, BlockNumber first, int pages)
{
	char	   *path = relpathperm(rel->rd_node, MAIN_FORKNUM);
	int			fd;
	int			error;

	if (first >= RELSEG_SIZE)
		path = psprintf("%s.%u", path, first / RELSEG_SIZE);
	fd = OpenTransientFile(path, O_RDWR | PG_BINARY);
	if (fd < 0)
		return false;
	do
		error = posix_fallocate(fd, (off_t) (first % RELSEG_SIZE) * BLCKSZ, (off_t) pages * BLCKSZ);
	while (error == EINTR);
	CloseTransientFile(fd);
	return error == 0;
}

/*
 * Extend "rel" by up to "pages" pages, at most SAU_EXTEND_MAX.  Returns how many it got, the first
 * of them in *first.  None is no error: extending by one page will tell what is wrong.
 */
int
sau_extend_by(Relation rel, int pages, BlockNumber *first)
{
	int			n;

	Assert(pages > 0 && pages <= SAU_EXTEND_MAX);
	LockRelationForExtension(rel, ExclusiveLock);
	*first = RelationGetNumberOfBlocks(rel);

	/* The file of the next segment is PostgreSQL's to make. */
	pages = *first % RELSEG_SIZE == 0 ? 0 : Min(pages, RELSEG_SIZE - *first % RELSEG_SIZE);

	/*
	 * Their buffers come first: as long as the file does not hold the pages, nobody can have read or
	 * filled them.  If the file stays as it is, zeros in the pool are what ReadBuffer() of a
	 * new page puts up with (see ReadBuffer_common()).
	 */
	for (n = 0; n < pages; n++)
	{
		Buffer		buffer = ReadBufferExtended(rel, MAIN_FORKNUM, *first + n, RBM_ZERO_AND_LOCK, NULL);
		bool		is_new = PageIsNew(BufferGetPage(buffer));

		UnlockReleaseBuffer(buffer);
		if (!is_new)
			break;
	}
	if (n > 0 && !allocate(rel, *first, n))
		n = 0;
	UnlockRelationForExtension(rel, ExclusiveLock);
	return n;
}

#else

int
sau_extend_by(Relation rel, int pages, BlockNumber *first)
{
	return 0;
}

#endif
