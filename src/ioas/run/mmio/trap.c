/* A trapped load or store, as far as it is system calls: from "the thread goes on" to "here is its next access".
 *
 * What ioas.run.mmio.faults does in Python, for the moves between a general register and memory that drivers use most.
 * Everything else - another signal, another instruction, an address that is no window's - is handed back untouched, and
 * done there. Nothing is remembered that the program can change: the code, the registers and what is mapped at the
 * address are asked of the kernel each time. Optional: without a compiler the Python does it all (`compiled.py`).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	LONGEST = 15,
	THREADS = 1024,
	MOVES = 4096,
	WINDOWS = 64,
	PAGE = 4096,
	REGISTERS = 27,
	RIP = 16,
	TURN = 8,           /* accesses of one thread while another one waits */
	PATIENCE = 200000,  /* nanoseconds for which that one waits at most for the next of them */
	PROCMAP_QUERY = 0xC0686611, /* include/uapi/linux/fs.h */
};

enum { ACCESS = 0, OTHER = 1 };

/* What the caller sees; ioas.run.mmio.compiled.Trap is the same in Python. */
struct trap {
	int64_t thread, status;           /* what wait(2) has found */
	uint64_t window, offset;          /* which of the windows, and where in it */
	uint64_t size, store;             /* bytes; whether it is a store */
	uint64_t value;                   /* what is stored, or what the caller has loaded */
	uint64_t near;                    /* whether the thread needs no help to go on where we are: it is kept there */
};

struct thread {
	int id, memory, maps, near;
	uint64_t count; /* of its accesses */
};

struct move {
	uint8_t code[LONGEST];
	uint8_t length, size, store, used;
	int8_t reg, base, index; /* words of the registers, -1: none */
	uint8_t scale;
	uint64_t displacement, value;
};

struct window {
	uint64_t device, inode;
};

struct query { /* struct procmap_query */
	uint64_t size, flags, address, start, end, vma_flags, page_size, offset, inode;
	uint32_t major, minor, name_size, build_id_size;
	uint64_t name, build_id;
};

struct state {
	struct trap trap;
	uint64_t regs[REGISTERS], windows;
	const struct move *move;
	int turn, left;         /* whose turn it is, and how many accesses it has left */
	int waiting, status;    /* who waits for it to end, and how wait(2) has found that one */
	int nudge, has_timer;   /* the signal that interrupts a wait */
	int timer;
	struct window window[WINDOWS];
	struct thread thread[THREADS];
	struct move moves[MOVES];
};

static long request(int number, int thread, unsigned long address, void *data) {
	return syscall(SYS_ptrace, number, thread, address, data);
}

static int poke(int thread, unsigned reg, uint64_t value) {
	return request(PTRACE_POKEUSER, thread, 8 * reg, (void *)value) < 0;
}

static struct move *slot(struct state *state, const uint8_t *code) {
	uint64_t low, high;
	memcpy(&low, code, 8);
	memcpy(&high, code + LONGEST - 8, 8);
	return state->moves + ((low * 0x9E3779B97F4A7C15u ^ high * 0xC2B2AE3D27D4EB4Fu) >> 52) % MOVES;
}

/* What this has been built from (hatch_build.py): a string. */
const char compiled_sources[] = SOURCES;

/* Bytes that ioas.run.mmio.compiled asks for. */
uint64_t trap_size(void) { return sizeof(struct state); }

void trap_set_nudge(struct state *state, int number) { state->nudge = number; }

void trap_learn_window(struct state *state, uint64_t index, uint64_t device, uint64_t inode) {
	if (index < WINDOWS) {
		state->window[index] = (struct window){device, inode};
		if (index >= state->windows)
			state->windows = index + 1;
	}
}

void trap_learn_thread(struct state *state, int id, int memory, int maps) {
	state->thread[id % THREADS] = (struct thread){id, memory, maps, 0, 0};
}

void trap_forget_thread(struct state *state, int id) {
	if (state->thread[id % THREADS].id == id)
		state->thread[id % THREADS].id = 0;
}

/* Whether a thread is kept near; how many accesses it has made since this was said last. */
uint64_t trap_set_near(struct state *state, int id, int near) {
	struct thread *thread = state->thread + id % THREADS;
	uint64_t count = thread->count;
	if (thread->id != id)
		return 0;
	thread->near = near, thread->count = 0;
	return count;
}

void trap_learn_move(struct state *state, const uint8_t *code, int length, int size, int store, int reg, int base,
		     int index, int scale, uint64_t displacement, uint64_t constant) {
	struct move *move = slot(state, code);
	*move = (struct move){.length = length, .size = size, .store = store, .reg = reg, .base = base, .index = index,
			      .scale = scale, .displacement = displacement, .value = constant, .used = 1};
	memcpy(move->code, code, LONGEST);
}

static int find_window(struct state *state, const struct query *found) {
	uint64_t device = makedev(found->major, found->minor);
	for (uint64_t i = 0; found->inode && i < state->windows; i++)
		if (state->window[i].inode == found->inode && state->window[i].device == device) {
			state->trap.window = i;
			return 1;
		}
	return 0;
}

/* Whether the access begins at `address`: one that begins in the page before, which the program may have mapped to
 * something else, faults at the same place. */
static int begins_at(const struct state *state, const struct move *move, uint64_t address) {
	uint64_t at = move->displacement;
	if (move->base < 0)
		return 0;
	at += state->regs[move->base];
	if (move->index >= 0)
		at += state->regs[move->index] * move->scale;
	return at == address;
}

/* Whether the thread, which stands before SIGBUS, has made an access that we know how to describe. */
static int describe(struct state *state) {
	struct trap *trap = &state->trap;
	struct thread *thread = state->thread + trap->thread % THREADS;
	struct query query = {.size = sizeof query};
	uint8_t code[LONGEST];
	siginfo_t info;
	if (thread->id != trap->thread || request(PTRACE_GETSIGINFO, thread->id, 0, &info) < 0)
		return 0;
	if (info.si_code != BUS_ADRERR || request(PTRACE_GETREGS, thread->id, 0, state->regs) < 0)
		return 0;
	if (pread(thread->memory, code, LONGEST, state->regs[RIP]) != LONGEST)
		return 0;
	struct move *move = slot(state, code);
	if (!move->used || memcmp(move->code, code, LONGEST))
		return 0;
	query.address = (uint64_t)info.si_addr;
	if (ioctl(thread->maps, PROCMAP_QUERY, &query) < 0 || !find_window(state, &query))
		return 0;
	if (query.address == query.start && !begins_at(state, move, query.address))
		return 0;
	if (query.address + move->size > query.end)
		return 0;
	trap->value = move->reg >= 0 ? state->regs[move->reg] : move->value;
	if (move->size < 8)
		trap->value &= (1ull << 8 * move->size) - 1;
	trap->offset = query.offset + query.address - query.start;
	trap->size = move->size, trap->store = move->store, trap->near = thread->near;
	state->move = move;
	thread->count++;
	return 1;
}

/* The instruction has been carried out: the thread stands behind it. 0, or -1 when it is gone. */
int trap_finish(struct state *state) {
	const struct move *move = state->move;
	int thread = state->trap.thread;
	if (!move->store && poke(thread, move->reg, state->trap.value))
		return -1;
	return poke(thread, RIP, state->regs[RIP] + move->length) ? -1 : 0;
}

static int is_kept(const struct state *state, int id) {
	const struct thread *thread = state->thread + id % THREADS;
	return thread->id == id && thread->near;
}

/* Have a wait of this thread interrupted after PATIENCE. */
static int set_alarm(struct state *state) {
	struct itimerspec when = {.it_value.tv_nsec = PATIENCE};
	struct sigevent event = {.sigev_signo = state->nudge, .sigev_notify = SIGEV_THREAD_ID};
	event._sigev_un._tid = gettid();
	if (!state->has_timer && syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &state->timer) < 0)
		return -1;
	state->has_timer = 1;
	return syscall(SYS_timer_settime, state->timer, 0, &when, NULL);
}

/* Wait for any thread. One that accesses the device again and again has TURN accesses before another such one is served:
 * both run where we are, so the other one would gain nothing, and a sequence of accesses is over in half the time.
 */
static int wait_by_turns(struct state *state, int *status) {
	int found = 0;
	if (!state->waiting) {
		found = wait4(-1, status, __WALL | __WNOTHREAD, NULL);
		if (found < 0)
			return found;
		if (found == state->turn || state->left <= 0 || *status != (SIGBUS << 8 | 0x7F) || !is_kept(state, found) ||
		    !is_kept(state, state->turn) || set_alarm(state) < 0) {
			if (found != state->turn)
				state->turn = found, state->left = TURN;
			state->left--;
			return found;
		}
		state->waiting = found, state->status = *status;
	}
	if (state->left-- > 0 && (found = wait4(state->turn, status, __WALL | __WNOTHREAD, NULL)) > 0)
		return found;
	found = state->turn = state->waiting;
	*status = state->status;
	state->waiting = 0, state->left = TURN - 1;
	return found;
}

/* The next thing that happens: ACCESS, OTHER (trap.thread and trap.status tell what), or minus an errno. */
int trap_next(struct state *state) {
	int status;
	int found = wait_by_turns(state, &status);
	if (found < 0)
		return -errno;
	state->trap.thread = found, state->trap.status = status;
	return status == (SIGBUS << 8 | 0x7F) && describe(state) ? ACCESS : OTHER;
}

/* `trap_finish` for a thread that goes on where we are, and `trap_next`. */
int trap_go_on(struct state *state) {
	if (trap_finish(state) == 0)
		request(PTRACE_CONT, state->trap.thread, 0, NULL);
	return trap_next(state);
}
