// SPDX-License-Identifier: Apache-2.0
// Maps private memory by an ioctl whose registers, stack and red zone it knows, and looks whether anything has changed.
// Usage: visited IOMMUFD IOAS. Prints nothing and exits with 0 when all is as it was, else with what has changed.
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct map { uint32_t size, flags, ioas, reserved; uint64_t address, length, iova; };

uint64_t before[14], after[14];
unsigned char red[2][128], below[2][512], vectors[2][64];

// ioctl(2) with a value of ours in every register that a system call keeps, the red zone and what lies below it filled.
static long map_watched(long fd, long request, struct map *map)
{
	long result;
	for (int i = 0; i < 14; i++)
		before[i] = 0x1111111111111111u * (i + 1);
	memset(red[0], 0xAB, sizeof(red[0]));
	memset(below[0], 0xCD, sizeof(below[0]));
	memset(vectors[0], 0x5A, sizeof(vectors[0]));
	__asm__ volatile(
		"push %%rbx; push %%rbp; push %%r12; push %%r13; push %%r14; push %%r15\n"
		"sub $1024, %%rsp\n"
		"mov %%rsp, %%r15\n"
		"mov %%rdi, %%r14; mov %%rsi, %%r13; mov %%rdx, %%r12\n"
		"lea -128(%%r15), %%rdi; lea red(%%rip), %%rsi; mov $128, %%ecx; rep movsb\n"
		"lea -640(%%r15), %%rdi; lea below(%%rip), %%rsi; mov $512, %%ecx; rep movsb\n"
		"movdqu vectors(%%rip), %%xmm3; movdqu vectors(%%rip), %%xmm15\n"
		"mov %%r14, %%rdi; mov %%r13, %%rsi; mov %%r12, %%rdx\n"
		"mov 0+before(%%rip), %%rbx; mov 8+before(%%rip), %%rbp; mov 16+before(%%rip), %%r8\n"
		"mov 24+before(%%rip), %%r9; mov 32+before(%%rip), %%r10\n"
		"mov $16, %%eax; stc; syscall\n"
		"mov %%rbx, 0+after(%%rip); mov %%rbp, 8+after(%%rip); mov %%r8, 16+after(%%rip)\n"
		"mov %%r9, 24+after(%%rip); mov %%r10, 32+after(%%rip)\n"
		"mov %%rdi, 40+after(%%rip); mov %%rsi, 48+after(%%rip); mov %%rdx, 56+after(%%rip)\n"
		"mov %%r14, 64+after(%%rip); mov %%r13, 72+after(%%rip); mov %%r12, 80+after(%%rip)\n"
		"mov %%rsp, 88+after(%%rip); mov %%r15, 96+after(%%rip); setc 104+after(%%rip)\n"
		"movdqu %%xmm3, 16+vectors(%%rip); movdqu %%xmm15, 32+vectors(%%rip)\n"
		"mov %%rax, %%rbx\n"
		"lea -128(%%r15), %%rsi; lea 128+red(%%rip), %%rdi; mov $128, %%ecx; rep movsb\n"
		"lea -640(%%r15), %%rsi; lea 512+below(%%rip), %%rdi; mov $512, %%ecx; rep movsb\n"
		"mov %%rbx, %%rax\n"
		"add $1024, %%rsp\n"
		"pop %%r15; pop %%r14; pop %%r13; pop %%r12; pop %%rbp; pop %%rbx\n"
		: "=a"(result)
		: "D"(fd), "S"(request), "d"(map)
		: "rcx", "r8", "r9", "r10", "r11", "xmm3", "xmm15", "memory", "cc");
	return result;
}

static int changed(long fd, long request, struct map *map)
{
	for (int i = 0; i < 5; i++)
		if (after[i] != before[i])
			return 10 + i;
	if (after[5] != (uint64_t)fd || after[6] != (uint64_t)request || after[7] != (uint64_t)map)
		return 20;
	if (after[8] != (uint64_t)fd || after[9] != (uint64_t)request || after[10] != (uint64_t)map)
		return 21;
	if (after[11] != after[12])
		return 22;
	if (!(after[13] & 1))
		return 23;
	if (memcmp(red[0], red[1], sizeof(red[0])))
		return 30;
	if (memcmp(below[0], below[1], sizeof(below[0])))
		return 31;
	if (memcmp(vectors[0], vectors[0] + 16, 16) || memcmp(vectors[0], vectors[0] + 32, 16))
		return 32;
	return 0;
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	sigset_t all, was, now;
	sigfillset(&all);
	sigdelset(&all, SIGTERM);
	sigprocmask(SIG_SETMASK, &all, NULL);
	sigprocmask(SIG_SETMASK, NULL, &was);
	raise(SIGUSR1);
	raise(SIGTRAP);
	long fd = atoi(argv[1]);
	for (int turn = 0; turn < 20; turn++) {
		void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		struct map map = { sizeof(map), 7, (uint32_t)atoi(argv[2]), 0, (uintptr_t)page, 4096, 0x1000000 + turn * 4096 };
		if (map_watched(fd, 0x3B85, &map))
			return 3;
		int what = changed(fd, 0x3B85, &map);
		if (what)
			return what;
	}
	sigprocmask(SIG_SETMASK, NULL, &now);
	for (int number = 1; number < 65; number++)
		if (sigismember(&now, number) != sigismember(&was, number))
			return 40;
	sigpending(&now);
	return sigismember(&now, SIGUSR1) && sigismember(&now, SIGTRAP) ? 0 : 41;
}
