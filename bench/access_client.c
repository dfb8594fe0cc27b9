// SPDX-License-Identifier: Apache-2.0
// Times IOMMU_TEST_OP_ACCESS_RW and prints "name nanoseconds" lines, medians over N calls each: the client of bench/bulk.py.
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

enum { N = 2000, PAGE = 4096, CREATE_ACCESS = 5, ACCESS_RW = 8, MOCK_DOMAIN = 2, WRITE = 1, PINS = 4 };

static const unsigned long IOAS_ALLOC = _IO(';', 0x81), IOAS_MAP = _IO(';', 0x85), TEST = _IO(';', 0xa0);
static const uint64_t IOVA = 1 << 24;

struct ioas_alloc { uint32_t size, flags, out_ioas_id; };
struct ioas_map { uint32_t size, flags, ioas_id, reserved; uint64_t user_va, length, iova; };
struct test_cmd {
	uint32_t size, op, id, reserved;
	union {
		struct { uint32_t out_access_fd, flags; } create;
		struct { uint64_t iova, length, uptr; uint32_t flags; } rw;
		uint8_t room[56];
	};
};

static uint64_t samples[N];

static void need(int result, const char *what)
{
	if (result < 0) {
		perror(what);
		exit(1);
	}
}

static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * UINT64_C(1000000000) + t.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return (x > y) - (x < y);
}

static void time_copies(int iommufd, uint32_t access, uint32_t flags, uint64_t length, const char *state, const char *way)
{
	static char buffer[4 * PAGE];
	struct test_cmd command = { .size = sizeof(command), .op = ACCESS_RW, .id = access,
				    .rw = { IOVA + 8, length, (uintptr_t)buffer, flags } };
	for (int i = 0; i < N; i++) {
		uint64_t start = now();
		need(ioctl(iommufd, TEST, &command), "ACCESS_RW");
		samples[i] = now() - start;
	}
	qsort(samples, N, sizeof(*samples), ascending);
	printf("%s%s_%lu %lu\n", state, way, (unsigned long)length, (unsigned long)samples[N / 2]);
}

static void time_all(int iommufd, uint32_t ioas, const char *state)
{
	struct test_cmd create = { .size = sizeof(create), .op = CREATE_ACCESS, .id = ioas };
	need(ioctl(iommufd, TEST, &create), "CREATE_ACCESS");
	const uint64_t lengths[] = { 16, 4 * PAGE };
	for (int i = 0; i < 2; i++) {
		time_copies(iommufd, create.create.out_access_fd, 0, lengths[i], state, "read");
		time_copies(iommufd, create.create.out_access_fd, WRITE, lengths[i], state, "write");
		time_copies(iommufd, create.create.out_access_fd, PINS, lengths[i], state, "pins_read");
		time_copies(iommufd, create.create.out_access_fd, WRITE | PINS, lengths[i], state, "pins_write");
	}
}

int main(void)
{
	int iommufd = open("/dev/iommu", O_RDWR);
	need(iommufd, "/dev/iommu");
	struct ioas_alloc alloc = { .size = sizeof(alloc) };
	need(ioctl(iommufd, IOAS_ALLOC, &alloc), "IOMMU_IOAS_ALLOC");
	void *memory = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		need(-1, "mmap");
	memset(memory, 1, 16 * PAGE);
	struct ioas_map map = { .size = sizeof(map), .flags = 7, .ioas_id = alloc.out_ioas_id,
				.user_va = (uintptr_t)memory, .length = 16 * PAGE, .iova = IOVA };
	need(ioctl(iommufd, IOAS_MAP, &map), "IOMMU_IOAS_MAP");
	time_all(iommufd, alloc.out_ioas_id, "");
	struct test_cmd mock = { .size = sizeof(mock), .op = MOCK_DOMAIN, .id = alloc.out_ioas_id };
	need(ioctl(iommufd, TEST, &mock), "MOCK_DOMAIN");
	time_all(iommufd, alloc.out_ioas_id, "pinned_");
	return 0;
}
