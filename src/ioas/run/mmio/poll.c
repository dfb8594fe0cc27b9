/* Polled registers: waiting for software to change one, and changing one without losing what software writes.
 *
 * What ioas.run.mmio.cells does in Python, with two advantages: it spins without the interpreter's lock, and a value is
 * published by compare-and-swap, so that a store at the same moment is seen and not overwritten.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdint.h>

enum { CELLS = 1024, YIELD_EVERY = 256 };

struct cell {
	void *at;
	uint64_t last; /* what both sides know to stand there */
	uint32_t width, doorbell;
};

struct cells {
	uint64_t count, interrupted, found;
	uint64_t changed[CELLS];
	struct cell cell[CELLS];
};

uint64_t poll_size(void) { return sizeof(struct cells); }

static uint64_t load(const struct cell *cell) {
	switch (cell->width) {
	case 1:
		return __atomic_load_n((uint8_t *)cell->at, __ATOMIC_ACQUIRE);
	case 2:
		return __atomic_load_n((uint16_t *)cell->at, __ATOMIC_ACQUIRE);
	case 4:
		return __atomic_load_n((uint32_t *)cell->at, __ATOMIC_ACQUIRE);
	default:
		return __atomic_load_n((uint64_t *)cell->at, __ATOMIC_ACQUIRE);
	}
}

#define SWAP(type)                                                                                                     \
	do {                                                                                                           \
		type expected = cell->last;                                                                            \
		done = __atomic_compare_exchange_n((type *)cell->at, &expected, (type)value, 0, __ATOMIC_SEQ_CST,      \
						   __ATOMIC_SEQ_CST);                                                  \
	} while (0)

/* Put a value in place of `last`, unless software has just stored something: whether that was so. */
int poll_publish(struct cells *cells, uint64_t index, uint64_t value) {
	struct cell *cell = cells->cell + index;
	int done;
	switch (cell->width) {
	case 1:
		SWAP(uint8_t);
		break;
	case 2:
		SWAP(uint16_t);
		break;
	case 4:
		SWAP(uint32_t);
		break;
	default:
		SWAP(uint64_t);
	}
	if (done)
		cell->last = value;
	return done;
}

/* Note every cell that software has changed: those without a doorbell first. */
static void collect(struct cells *cells) {
	cells->found = 0;
	for (uint32_t doorbell = 0; doorbell < 2; doorbell++)
		for (uint64_t i = 0; i < cells->count; i++) {
			struct cell *cell = cells->cell + i;
			uint64_t value;
			if (cell->doorbell == doorbell && (value = load(cell)) != cell->last) {
				cell->last = value;
				cells->changed[cells->found++] = i;
			}
		}
}

/* Wait until a doorbell has been changed, `rounds` have passed or somebody interrupts; then collect. */
void poll_wait(struct cells *cells, uint64_t rounds) {
	for (uint64_t round = 1; round <= rounds && !__atomic_load_n(&cells->interrupted, __ATOMIC_ACQUIRE); round++) {
		for (uint64_t i = 0; i < cells->count; i++)
			if (cells->cell[i].doorbell && load(cells->cell + i) != cells->cell[i].last)
				goto rung;
		if (round % YIELD_EVERY == 0)
			sched_yield();
		else
			__builtin_ia32_pause();
	}
rung:
	collect(cells);
}
