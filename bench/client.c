// SPDX-License-Identifier: Apache-2.0
// Times single system calls and prints "name nanoseconds" lines, medians over N calls each: the client of bench/notify.py.
// Run plainly it times a native ioctl; with the argument "ioas" also VFIO_CHECK_EXTENSION and IOAS_MAP/UNMAP of 4 KiB.
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { N = 2000, PAGE = 4096 };

static const unsigned long VFIO_CHECK_EXTENSION = _IO(';', 101), VFIO_BIND = _IO(';', 118), VFIO_ATTACH = _IO(';', 119);
static const unsigned long IOAS_ALLOC = _IO(';', 0x81), IOAS_MAP = _IO(';', 0x85), IOAS_UNMAP = _IO(';', 0x86);

struct ioas_alloc { uint32_t size, flags, out_ioas_id; };
struct ioas_map { uint32_t size, flags, ioas_id, reserved; uint64_t user_va, length, iova; };
struct ioas_unmap { uint32_t size, ioas_id; uint64_t iova, length; };
struct bind { uint32_t argsz, flags; int32_t iommufd; uint32_t out_devid; };
struct attach { uint32_t argsz, flags, pt_id; };

static uint64_t samples[N], others[N];

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

static void report(const char *name, uint64_t *values)
{
	qsort(values, N, sizeof(*values), ascending);
	printf("%s %lu\n", name, (unsigned long)values[N / 2]);
}

// FIONREAD on a pipe: about the least that an ioctl can do.
static void time_native(void)
{
	int ends[2], count;
	need(pipe(ends), "pipe");
	for (int i = 0; i < N; i++) {
		uint64_t start = now();
		need(ioctl(ends[0], FIONREAD, &count), "FIONREAD");
		samples[i] = now() - start;
	}
	report("native", samples);
}

static void time_check_extension(int iommufd)
{
	for (int i = 0; i < N; i++) {
		uint64_t start = now();
		need(ioctl(iommufd, VFIO_CHECK_EXTENSION, 3), "VFIO_CHECK_EXTENSION");
		samples[i] = now() - start;
	}
	report("check_extension", samples);
}

static uint32_t ioas_with_device(int iommufd)
{
	struct ioas_alloc alloc = { .size = sizeof(alloc) };
	need(ioctl(iommufd, IOAS_ALLOC, &alloc), "IOMMU_IOAS_ALLOC");
	int device = open("/dev/vfio/devices/vfio0", O_RDWR);
	need(device, "/dev/vfio/devices/vfio0");
	struct bind bind = { .argsz = sizeof(bind), .iommufd = iommufd };
	need(ioctl(device, VFIO_BIND, &bind), "VFIO_DEVICE_BIND_IOMMUFD");
	struct attach attach = { .argsz = sizeof(attach), .pt_id = alloc.out_ioas_id };
	need(ioctl(device, VFIO_ATTACH, &attach), "VFIO_DEVICE_ATTACH_IOMMUFD_PT");
	return alloc.out_ioas_id;
}

static void time_map(int iommufd, uint32_t ioas, int sharing, const char *map_name, const char *unmap_name)
{
	void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, sharing | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		need(-1, "mmap");
	memset(page, 1, PAGE);
	struct ioas_map map = { .size = sizeof(map), .flags = 7, .ioas_id = ioas, .user_va = (uintptr_t)page,
				.length = PAGE, .iova = 0x100000 };
	for (int i = 0; i < N; i++) {
		struct ioas_unmap unmap = { .size = sizeof(unmap), .ioas_id = ioas, .iova = map.iova, .length = PAGE };
		uint64_t start = now();
		need(ioctl(iommufd, IOAS_MAP, &map), "IOMMU_IOAS_MAP");
		uint64_t middle = now();
		need(ioctl(iommufd, IOAS_UNMAP, &unmap), "IOMMU_IOAS_UNMAP");
		samples[i] = middle - start;
		others[i] = now() - middle;
	}
	report(map_name, samples);
	report(unmap_name, others);
}

int main(int argc, char **argv)
{
	if (argc < 2 || strcmp(argv[1], "ioas")) {
		time_native();
		return 0;
	}
	int iommufd = open("/dev/iommu", O_RDWR);
	need(iommufd, "/dev/iommu");
	time_check_extension(iommufd);
	uint32_t ioas = ioas_with_device(iommufd);
	time_map(iommufd, ioas, MAP_SHARED, "map_shared", "unmap_shared");
	time_map(iommufd, ioas, MAP_PRIVATE, "map_private", "unmap_private");
	return 0;
}
