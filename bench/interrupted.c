/*
 * Makes calls on iommufd while a timer's signal comes every half millisecond, with a handler that has no SA_RESTART.
 * Prints how many calls failed and how many signals came. The argument: how many threads make calls.
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/time.h>

enum { CHECK_EXTENSION = 0x3b65, CALLS = 8000, MOST = 16 };

static volatile long signals;
static int iommufd;

static void count(int number)
{
	(void)number;
	signals++;
}

static void *calls(void *failed)
{
	for (int turn = 0; turn < CALLS; turn++)
		if (ioctl(iommufd, CHECK_EXTENSION, 1) < 0)
			++*(long *)failed;
	return NULL;
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = count };
	struct itimerval often = { { 0, 500 }, { 0, 500 } }, never = { { 0, 0 }, { 0, 0 } };
	int number = argc > 1 ? atoi(argv[1]) : 1;
	long failed[MOST] = { 0 }, total = 0;
	pthread_t threads[MOST];

	iommufd = open("/dev/iommu", O_RDWR);
	if (iommufd < 0 || number < 1 || number > MOST)
		return 1;
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &often, NULL);
	for (int i = 1; i < number; i++)
		pthread_create(&threads[i], NULL, calls, &failed[i]);
	calls(&failed[0]);
	for (int i = 1; i < number; i++)
		pthread_join(threads[i], NULL);
	setitimer(ITIMER_REAL, &never, NULL);
	for (int i = 0; i < number; i++)
		total += failed[i];
	printf("%ld %ld\n", total, signals);
	return 0;
}
