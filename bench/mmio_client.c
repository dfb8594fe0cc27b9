/* The client of bench/mmio.py: loads and stores on a mapped BAR, each timed, alone and from two threads at once.
 *
 * Knows nothing of ioas, like any program. Prints "name nanoseconds" lines, medians over N accesses each and one mean; and with the
 * argument "other", how long a computation that does not touch the BAR takes once it has been mapped.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

enum { N = 3000, BIND = 0x3b76, BAR_SIZE = 1 << 20 };

static volatile uint32_t *bar;

static long now(void) {
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000L + time.tv_nsec;
}

static int by_size(const void *one, const void *other) {
	long a = *(const long *)one, b = *(const long *)other;
	return (a > b) - (a < b);
}

static void map(void) {
	int iommufd = open("/dev/iommu", O_RDWR), device = open("/dev/vfio/devices/vfio0", O_RDWR);
	uint32_t bind[4] = {sizeof bind, 0, iommufd, 0};
	if (ioctl(device, BIND, bind)) {
		perror("VFIO_DEVICE_BIND_IOMMUFD");
		exit(1);
	}
	bar = mmap(NULL, BAR_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, device, 0);
	if (bar == MAP_FAILED) {
		perror("mmap");
		exit(1);
	}
}

struct medians {
	long load, store, mean;
};

static void *measure(void *to) {
	static __thread long samples[N];
	struct medians *medians = to;
	for (int i = 0; i < N; i++) {
		long start = now();
		(void)bar[0];
		samples[i] = now() - start;
	}
	qsort(samples, N, sizeof *samples, by_size);
	medians->load = samples[N / 2];
	medians->mean = 0;
	for (int i = 0; i < N; i++)
		medians->mean += samples[i] / N;
	for (int i = 0; i < N; i++) {
		long start = now();
		bar[1] = i;
		samples[i] = now() - start;
	}
	qsort(samples, N, sizeof *samples, by_size);
	medians->store = samples[N / 2];
	return NULL;
}

static void compute(void) {
	static char from[1 << 16], to[1 << 16];
	long start = now();
	for (int i = 0; i < 40000; i++) {
		memcpy(to, from, sizeof to);
		__asm__ volatile("" : : "r"(to), "r"(from) : "memory");
	}
	printf("compute %ld\n", now() - start);
}

int main(int argc, char **argv) {
	struct medians one, two[2];
	pthread_t threads[2];
	if (argc > 1 && !strcmp(argv[1], "other")) {
		compute();
		return 0;
	}
	map();
	if (argc > 1) {
		compute();
		return 0;
	}
	measure(&one);
	for (int i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, measure, &two[i]);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	printf("load %ld\nstore %ld\n", one.load, one.store);
	printf("load_two %ld\nstore_two %ld\n", (two[0].load + two[1].load) / 2, (two[0].store + two[1].store) / 2);
	printf("load_two_mean %ld\n", (two[0].mean + two[1].mean) / 2);
	return 0;
}
